"""The catalogue of faults, one file per family; found by name through the entry points `zebra.faults`."""

if __name__ != "zebra.faults":
    raise ImportError(f"import zebra.faults instead of {__name__}: two doors to one file make two classes of one name")
