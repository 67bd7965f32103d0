"""Controls, and the baselines that most papers compare with."""
