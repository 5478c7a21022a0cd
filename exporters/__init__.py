"""The formats a network can leave in: one file a format, one protocol, one registry."""

if __name__ == "exporters":
    raise ImportError("import sca_deploy.exporters, not exporters")
