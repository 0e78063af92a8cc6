"""What the kubelet says, translated: the Kubernetes Container Runtime Interface over runtime/.

Nothing here makes a system call.  ``services.py`` is the table of contents: one line per RPC, and
the line names the function that answers it.  ``spec.py`` is where a pod's wishes become an OCI spec.
"""
