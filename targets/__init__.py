"""The library of systems under test, one folder each; found by name through the entry points `zebra.targets`."""

if __name__ != "zebra.targets":
    raise ImportError(f"import zebra.targets instead of {__name__}: two doors to one file make two classes of one name")
