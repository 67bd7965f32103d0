"""What a network learns from a data set: the values of ``dataset.task``."""

CLASSIFICATION, REGRESSION = "classification", "regression"
TEXT_CLASSIFICATION, LANGUAGE_MODEL = "text_classification", "language_model"
TEXT_TASKS = (TEXT_CLASSIFICATION, LANGUAGE_MODEL)  # inputs are ids of tokens
