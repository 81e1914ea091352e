"""The study of capacity: do depth, parameters, data and users make a deep recognizer safe?

Source of the question: Khosravy et al. 2021.
"""
