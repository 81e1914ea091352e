"""What independent recognizers say of pictures, beside what they say of controls."""
