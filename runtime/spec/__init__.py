"""The OCI runtime spec, typed: ``schema`` (config.json), ``defaults``, ``load``."""
