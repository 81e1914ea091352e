"""What a run leaves behind: its folder, its page, its place beside other runs, and Weights & Biases."""
