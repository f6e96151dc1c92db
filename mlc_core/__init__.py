"""The model and all about it: photos, spec, artifact, engines, training, evaluation."""
