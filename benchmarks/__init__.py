"""How we compare: data, models, the common trainer, measuring, records and boards."""
