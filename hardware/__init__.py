"""What knows chips, and nothing of training: the integer Program, its simulator, cores, counts and energy."""

if __name__ == "hardware":
    raise ImportError("import sca_deploy.hardware, not hardware")
