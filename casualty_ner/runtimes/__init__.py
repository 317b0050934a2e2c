"""Engines that run the network: windows of token ids in, scores of every token out."""
