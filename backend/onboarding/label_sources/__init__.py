"""Labels that exist already: sorted folders, COCO, YOLO, Pascal VOC, and CSV files."""
