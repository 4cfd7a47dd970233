"""Child processes of the gateway: started so that none outlives it, measured, and known again later.

``processes`` starts and ends one through ``boot``; ``identity`` tells it from another of the same number,
``leftovers`` ends what a killed gateway left; ``log`` bounds what it prints, ``memory`` says what it holds.
"""
