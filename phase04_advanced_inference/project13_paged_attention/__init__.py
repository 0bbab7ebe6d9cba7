"""Memory for a cache comes in pages: nobody reserves what they may never use."""
