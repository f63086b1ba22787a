"""The result of a language model of half a billion parameters: its runs, how they are kept, and the figures of them."""
