"""The app on the Production model: a Streamlit page that classifies uploaded images and shows why.

`app_command` starts it. Streamlit runs `script/busi_app.py`, which calls `page.main` once for every change on the page.

- `page`: what is on the page, from top to bottom.
- `heat_map`: the picture under its heat map.
- `crop`: which part of a file is classified, and the controls that choose it.
- `table`: the table of many files, and the CSV.
- `state`: what the session remembers: files, and what the model said of them.
- `model`: the Production version, loaded once for all sessions.
- `examples`: the bundled images.
- `style`: the pieces of HTML in `app.html.j2`, and `app.css`.
"""
