"""What people read: figures, the HTML report, pictures of single images, the model card, and their templates.

Nothing here changes a result.
"""
