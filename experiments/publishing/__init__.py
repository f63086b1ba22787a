"""What `experiments.publish` writes and sends: weights and questions with cards, and nothing of this place."""
