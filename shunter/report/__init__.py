"""Pages and pictures.

``page`` is the kit, ``evaluation`` the page of ``shunter eval``, the others one page each.
"""
