"""Training: data, the loop that a reader of the paper recognises, and the measured quality of its images."""
