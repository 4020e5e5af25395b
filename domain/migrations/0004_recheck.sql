-- Whether live flows are judged again when the rules of an endpoint change.

ALTER TABLE endpoints ADD COLUMN recheck boolean NOT NULL DEFAULT false;
