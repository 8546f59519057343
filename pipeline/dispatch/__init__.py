"""An event's way: decoded, admitted into the window, through lanes and stages, to the committer."""
