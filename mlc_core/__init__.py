"""The model: photos, spec, artifact, engines, labels, training, evaluation."""
