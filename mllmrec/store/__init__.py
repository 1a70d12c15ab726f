"""What jobs share: trained weights, and the fingerprints that name them."""
