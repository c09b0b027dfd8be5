"""How fast recommendations are, over real HTTP, alone and while a release is swapped."""
