"""The kernelet command's subcommands: thin, one file per group, each a client of the CRI like any other."""
