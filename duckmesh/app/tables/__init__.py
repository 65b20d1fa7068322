"""Tables: what a tenant has, and how they are made and changed."""
