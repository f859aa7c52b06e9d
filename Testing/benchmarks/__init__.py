"""Speed, memory and accuracy, beside peers in one run."""
