"""How a network is built, run and cut: groups of nodes, copies, surgery, counting."""
