"""Programs that measure one thing and print one reading; those of peers never import yolo_lightning."""
