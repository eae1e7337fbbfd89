"""The one exception that means "the input is wrong, and here is what to do about it"."""


class InputError(ValueError):
    """Wrong input from the user: a folder, a file, a label or an option.

    The message is one sentence that names the file (with its line or key where there is one) and
    the remedy. The command line prints it without a traceback and exits with status 2.
    """
