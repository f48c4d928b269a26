"""Linear probes: what a linear model reads from the rows of frozen embeddings.

linear.py           standardization, logistic and ridge regression, and the search for their penalty: the head of a
                    fine-tuner before it is trained, and what training has to beat
leave_one_out.py    ridge regression that predicts each sample from all others, in closed form, for advice and diagnosis
cross_validated.py  scikit-learn models cross-validated on checked rows, for scores of backbones and layers
"""
