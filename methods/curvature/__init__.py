"""Second-order information: gradients, Fisher and K-FAC factors, flatness."""
