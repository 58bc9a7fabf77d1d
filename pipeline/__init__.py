"""surgeline keeps hospital capacity systems and the EHR consistent while the hospital is under surge."""

__version__ = "0.1.0"
