"""What surrounds the decisions of one step: who is up, what is judged, what is carried on."""
