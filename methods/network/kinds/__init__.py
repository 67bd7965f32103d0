"""Layer kinds: how each kind of layer multiplies what it reads by a weight matrix; one file per kind."""
