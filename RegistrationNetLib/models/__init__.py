"""The published methods, one file per paper, and how their networks combine (`steps`)."""
