"""Pre-trained networks behind one seam, `Backbone`; other libraries are imported only in its adapters."""
