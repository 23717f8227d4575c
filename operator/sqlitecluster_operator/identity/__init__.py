"""Who is who: certificate authorities of clusters and the endpoint that signs for pods."""
