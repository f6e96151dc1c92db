"""What a photo goes through: dispatcher → preprocessor → classifier, each behind a batcher."""
