"""The pruning methods, one a file; `sca_deploy.pruning.method` finds them here."""
