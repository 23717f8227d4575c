"""``make deploy``: the images, then the chart, into the cluster of the current kubeconfig. Safe to repeat."""
