"""The claims of the six papers, in small: `python -m Testing.claims` writes docs/claims.md."""
