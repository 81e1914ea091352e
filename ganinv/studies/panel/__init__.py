"""A panel of human raters: whom does a picture resemble, of five? The questions, their page, and what the answers say.

The subjective evaluation of Khosravy et al. 2021, made blind, with controls and catch trials. A rater who learns nothing
from a picture is right in one of five.
"""
