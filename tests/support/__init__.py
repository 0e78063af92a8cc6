"""What tests are written with: requirements, children in namespaces, waiting, and an audit of what is left behind."""
