"""Images, masks, landmarks and transforms from and to files, checked once where they enter. Imports from `geometry`."""
