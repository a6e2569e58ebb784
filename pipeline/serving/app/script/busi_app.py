"""What Streamlit runs, from top to bottom, whenever something on the page changes.

This file lies in a folder of its own because Streamlit puts the folder of its script first on the import path. Beside
the other modules of the app, each of them (`page`, `state`, `table`) could be imported without its package, and would
hide an installed package of that name.
"""

from pipeline.serving.app.page import main

if __name__ == "__main__":  # so it is for Streamlit; a process that this one starts may import the file again
    main()
