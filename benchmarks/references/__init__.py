"""What the product is compared with: peers, and floors that no implementation can go below."""
