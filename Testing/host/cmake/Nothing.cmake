# Configuration files and packages are not looked at here.
