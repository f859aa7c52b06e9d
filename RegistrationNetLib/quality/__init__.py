"""Whether to trust a result: numbers, marks, pictures and the report; and pairs of images whose true map is known.

Imports from `geometry` and `io`; it knows no method.
"""
