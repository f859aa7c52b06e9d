"""Training and fine-tuning: pairs to learn from, the loop, checkpoints that resume exactly, and the model that comes out."""
