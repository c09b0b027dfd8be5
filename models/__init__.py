"""Machine learning: data, prompts, models, training, unlearning and audit."""
