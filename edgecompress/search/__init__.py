"""Choose by what a network would cost, before anything is trained."""
