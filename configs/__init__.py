"""The ready recipes, as package data: `importlib.resources.files("sca_deploy.configs") / "digits.toml"`."""

if __name__ == "configs":
    raise ImportError("import sca_deploy.configs, not configs")
